resource "pgha_citus_worker_group" "one" {
  cluster           = pgha_patroni_cluster.worker.membership
  nodes             = [for n in pgha_patroni_node.worker : n.id]
  coordinator_nodes = [pgha_patroni_node.coordinator.id]
  rebalance         = "on_join"
}
