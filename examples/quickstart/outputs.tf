output "membership" {
  description = "What others have to know about the cluster, such as ../status. It holds no secrets."
  value       = pgha_patroni_cluster.main.membership
}

output "ca_certificate" {
  description = "The authority that issued the nodes' certificates, for sslrootcert."
  value       = pgha_patroni_cluster.main.ca_certificate
}

output "conninfo" {
  description = "A connection string that leads to the primary, whichever node that is."
  value       = provider::pgha::conninfo(values(var.hosts), "postgres", "read-write", "sslmode=verify-full")
}
