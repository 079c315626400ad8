# A PostgreSQL cluster on three Debian hosts: an etcd cluster, and on each host
# PostgreSQL under Patroni. How the hosts are reached is in the environment
# (PGHA_SSH_USER and so on) or in a provider block; see ../provider.

terraform {
  required_version = ">= 1.11"
  required_providers {
    pgha = {
      source = "pgha/pgha"
    }
  }
}

variable "hosts" {
  description = "The hosts' addresses, by name. The defaults are those of the demo's lab."
  type        = map(string)
  default     = { pg1 = "10.77.1.11", pg2 = "10.77.1.12", pg3 = "10.77.1.13" }
}

variable "allowed_networks" {
  description = "Networks from which clients and the nodes themselves may connect to PostgreSQL."
  type        = list(string)
  default     = ["10.77.0.0/16"]
}

variable "versions" {
  description = "Exact versions to install."
  type        = object({ etcd = string, patroni = string, postgresql = string })
  default     = { etcd = "3.5.16", patroni = "4.0.7", postgresql = "17.11" }
}

resource "pgha_host" "db" {
  for_each = var.hosts
  name     = each.key
  address  = each.value
}

resource "pgha_etcd_cluster" "dcs" {
  name    = "dcs"
  version = var.versions.etcd
  members = { for name, host in pgha_host.db : name => { host = host.access } }
}

resource "pgha_patroni_cluster" "main" {
  scope             = "main"
  etcd              = pgha_etcd_cluster.dcs.access
  failure_detection = "normal"
  synchronous_mode  = "quorum"
  allowed_networks  = var.allowed_networks
  postgresql        = { parameters = { max_connections = "200" } }
}

resource "pgha_patroni_node" "db" {
  for_each = pgha_host.db
  cluster  = pgha_patroni_cluster.main.membership
  host     = each.value.access
  name     = each.key
  versions = {
    postgresql = var.versions.postgresql
    patroni    = var.versions.patroni
  }
}
