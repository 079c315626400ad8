output "conninfo" {
  description = "A connection string that leads to the primary, whichever node of whichever site that is."
  value       = provider::pgha::conninfo(flatten([for nodes in local.nodes : values(nodes)]), var.database, "read-write", "sslmode=verify-full")
}

output "ca_certificates" {
  description = "The authorities of all sites, one after the other, for sslrootcert."
  value       = join("", [for cluster in pgha_patroni_cluster.main : cluster.ca_certificate])
}

output "memberships" {
  description = "The cluster of each site, for data sources and others. They hold no secrets."
  value       = { for site, cluster in local.cluster : site => pgha_patroni_cluster.main[cluster].membership }
}

output "nodes" {
  description = "The ids of each site's nodes by their names, for nodes of a pgha_dns_record."
  value       = { for site, nodes in local.nodes : site => { for name in keys(nodes) : name => pgha_patroni_node.db[name].id } }
}

output "generation" {
  description = "How often the primary has moved between sites, from 1, for generation of a pgha_dns_record; null with etcd = \"stretched\"."
  value       = one(pgha_cross_dc_replication.main[*].generation)
}

output "roles" {
  description = "What each site is now, such as \"primary\" or \"standby\"; null with etcd = \"stretched\"."
  value       = one(data.pgha_cross_dc_replication.main[*].roles)
}

output "table" {
  description = "The sites as they are now: who takes writes, and how far the others are behind; null with etcd = \"stretched\". It changes by itself."
  value       = one(data.pgha_cross_dc_replication.main[*].table)
}

output "warnings" {
  description = "What is wrong with the whole now; null with etcd = \"stretched\". That a site cannot be reached is in roles."
  value       = one(data.pgha_cross_dc_replication.main[*].warnings)
}
