ephemeral "pgha_credentials" "main" {
  cluster = pgha_patroni_cluster.main.membership
}

# The values can be used wherever nothing is kept: in provider blocks and
# write-only attributes, for example by a provider that manages databases.
locals {
  superuser = ephemeral.pgha_credentials.main.superuser
}
