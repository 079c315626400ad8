data "pgha_cross_dc_replication" "main" {
  name  = pgha_cross_dc_replication.main.name
  sites = pgha_cross_dc_replication.main.sites
}

output "sites" {
  value = data.pgha_cross_dc_replication.main.table
}

# Warns in each plan and apply that finds a site that cannot be reached, or something else
# that speaks against moving the primary now.
check "primary_can_move" {
  assert {
    condition     = alltrue([for role in values(data.pgha_cross_dc_replication.main.roles) : contains(["primary", "standby"], role)])
    error_message = join("\n", concat(data.pgha_cross_dc_replication.main.warnings, [data.pgha_cross_dc_replication.main.table]))
  }
  assert {
    condition     = alltrue([for against in values(data.pgha_cross_dc_replication.main.blocked) : length(against) == 0])
    error_message = join("\n", flatten(values(data.pgha_cross_dc_replication.main.blocked)))
  }
}
