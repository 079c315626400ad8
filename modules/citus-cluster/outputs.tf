output "coordinator" {
  description = "A connection string that leads to the coordinator's primary, whichever host that is."
  value       = provider::pgha::conninfo(values(var.groups["0"]), var.database, "read-write", "sslmode=verify-full")
}

output "membership" {
  description = "The coordinator's cluster, for the data source pgha_citus and others. It holds no secrets."
  value       = pgha_patroni_cluster.group["0"].membership
}

output "ca_certificate" {
  description = "The authority that issued the nodes' certificates, for sslrootcert."
  value       = pgha_patroni_cluster.group["0"].ca_certificate
}
