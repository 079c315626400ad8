data "pgha_citus" "shop" {
  cluster = pgha_patroni_cluster.coordinator.membership
}

output "formation" {
  value = data.pgha_citus.shop.table
}
