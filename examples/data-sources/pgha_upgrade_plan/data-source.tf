data "pgha_upgrade_plan" "main" {
  cluster  = pgha_patroni_cluster.main.membership
  versions = { postgresql = "17.12", patroni = "4.1.5" }

  # A canary that stays behind, or goes ahead.
  nodes = { pg3 = { patroni = "4.0.7" } }
}

output "upgrade" {
  value = data.pgha_upgrade_plan.main.table
}

# Warns in each plan and apply as long as something would keep the upgrade from
# going through.
check "upgrade_would_go" {
  assert {
    condition     = data.pgha_upgrade_plan.main.ready
    error_message = join("\n", data.pgha_upgrade_plan.main.problems)
  }
}
