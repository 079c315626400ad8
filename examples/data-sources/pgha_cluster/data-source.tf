data "pgha_cluster" "main" {
  cluster = pgha_patroni_cluster.main.membership
}

output "members" {
  value = data.pgha_cluster.main.table
}

# Warns in each plan and apply that finds the cluster without a leader.
check "cluster_has_a_leader" {
  assert {
    condition     = data.pgha_cluster.main.leader != null
    error_message = join("\n", data.pgha_cluster.main.warnings)
  }
}
