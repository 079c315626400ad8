resource "pgha_vip" "main" {
  cluster = pgha_patroni_cluster.main.membership
  nodes   = { for name, node in pgha_patroni_node.db : name => node.id }
  address = "10.77.1.100/24"
  version = "3.0.0"
}
