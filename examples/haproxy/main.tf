# HAProxy in front of a cluster: one port for the primary, one for the replicas. The
# configuration is an output; put it where HAProxy runs, with the authority beside it:
#
#   terraform output -raw haproxy_cfg > /etc/haproxy/haproxy.cfg
#   terraform output -raw ca_certificate > /etc/haproxy/pgha-ca.crt
#
# HAProxy comes to the nodes' REST API (port 8008), which answers whether a node is what a
# port leads to, and to PostgreSQL. Its own address has to be in allowed_networks.
terraform {
  required_providers {
    pgha = {
      source = "pgha/pgha"
    }
  }
}

variable "hosts" {
  description = "The hosts: name and address."
  type        = map(string)
  default     = { pg1 = "10.77.1.11", pg2 = "10.77.1.12", pg3 = "10.77.1.13" }
}

resource "pgha_host" "db" {
  for_each = var.hosts
  name     = each.key
  address  = each.value
}

resource "pgha_etcd_cluster" "dcs" {
  name    = "dcs"
  version = "3.5.16"
  members = { for name, host in pgha_host.db : name => { host = host.access } }
}

resource "pgha_patroni_cluster" "main" {
  scope            = "main"
  etcd             = pgha_etcd_cluster.dcs.access
  allowed_networks = ["10.77.0.0/16"]
}

resource "pgha_patroni_node" "db" {
  for_each = pgha_host.db
  cluster  = pgha_patroni_cluster.main.membership
  host     = each.value.access
  name     = each.key
  versions = { postgresql = "17.11", patroni = "4.0.7" }
}

output "haproxy_cfg" {
  value = templatefile("${path.module}/haproxy.cfg.tftpl", {
    nodes   = { for name, node in pgha_patroni_node.db : name => var.hosts[name] }
    ca_file = "/etc/haproxy/pgha-ca.crt"
  })
}

output "ca_certificate" {
  value = pgha_patroni_cluster.main.ca_certificate
}
