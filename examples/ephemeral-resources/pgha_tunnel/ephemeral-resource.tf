ephemeral "pgha_tunnel" "main" {
  cluster = pgha_patroni_cluster.main.membership
}

# What a provider that manages roles and databases is configured with: an address of this
# machine, which leads to the primary wherever that is.
locals {
  connection = {
    host = ephemeral.pgha_tunnel.main.host
    port = ephemeral.pgha_tunnel.main.port
  }
}
