# A Citus formation in two datacenters: a coordinator and two groups of workers in each,
# every group with a leader and a replica. In one datacenter the formation takes writes,
# in the other each group follows its counterpart; they move together.
#
#   terraform apply                        # dc1 takes writes
#   terraform apply -var primary_site=dc2  # dc2 does; nothing is lost
#
# Citus is in no Debian release: `repositories` says where the hosts find the package
# postgresql-17-citus.

terraform {
  required_version = ">= 1.11"
  required_providers {
    pgha = {
      source = "pgha/pgha"
    }
  }
}

provider "pgha" {
  # A plan goes on, and warns, while a datacenter cannot be reached.
  on_unreachable = "keep"
}

variable "sites" {
  description = "The hosts' addresses by name, by number of the group, by datacenter. Group 0 is the coordinator's. All datacenters have the same groups, and each host a name of its own."
  type        = map(map(map(string)))
  default = {
    dc1 = {
      "0" = { dc1-c1 = "10.77.1.11", dc1-c2 = "10.77.1.12" }
      "1" = { dc1-a1 = "10.77.1.13", dc1-a2 = "10.77.1.14" }
      "2" = { dc1-b1 = "10.77.1.15", dc1-b2 = "10.77.1.16" }
    }
    dc2 = {
      "0" = { dc2-c1 = "10.77.2.11", dc2-c2 = "10.77.2.12" }
      "1" = { dc2-a1 = "10.77.2.13", dc2-a2 = "10.77.2.14" }
      "2" = { dc2-b1 = "10.77.2.15", dc2-b2 = "10.77.2.16" }
    }
  }
  validation {
    condition     = length(var.sites) > 1 && length(distinct([for groups in var.sites : join(" ", keys(groups))])) == 1 && alltrue([for groups in var.sites : contains(keys(groups), "0") && length(groups) >= 3])
    error_message = "There have to be at least two datacenters with the same groups: group 0, the coordinator's, and at least two groups of workers, since etcd is on the first host of each of the first three."
  }
}

variable "primary_site" {
  description = "The datacenter that takes writes."
  type        = string
  default     = "dc1"
  validation {
    condition     = contains(keys(var.sites), var.primary_site)
    error_message = "primary_site has to be one of the datacenters: ${join(", ", keys(var.sites))}."
  }
}

variable "failover" {
  description = "\"planned\", or \"forced\" without the datacenter that has the primary."
  type        = string
  default     = "planned"
}

variable "accept_data_loss" {
  description = "For a forced failover: what its refusal names."
  type        = string
  default     = null
}

variable "repositories" {
  description = "Repositories that have Citus, as in apt.repositories of pgha_host; none if the hosts have one already."
  type        = any
  default     = null
}

locals {
  # The groups in the order of their numbers, which is not that of their names: "10" is
  # after "2".
  numbers = [for padded in sort([for number in keys(values(var.sites)[0]) : format("%06d", tonumber(number))]) : tostring(tonumber(padded))]

  # All clusters, and all nodes.
  groups = merge([for site, groups in var.sites : { for number, hosts in groups : "${site}/${number}" => { site = site, number = number, hosts = hosts } }]...)
  nodes  = merge([for key, group in local.groups : { for name, address in group.hosts : name => { group = key, address = address } }]...)

  # etcd is on the first host of each of the first three groups of its datacenter.
  etcd = { for site, groups in var.sites : site => [for number in slice(local.numbers, 0, 3) : sort(keys(groups[number]))[0]] }
}

resource "pgha_host" "db" {
  for_each = local.nodes
  name     = each.key
  address  = each.value.address
  apt      = { repositories = var.repositories }
}

resource "pgha_etcd_cluster" "dcs" {
  for_each = local.etcd
  name     = "dcs-${each.key}"
  version  = "3.5.16"
  members  = { for name in each.value : name => { host = pgha_host.db[name].access } }
}

resource "pgha_patroni_cluster" "group" {
  for_each         = local.groups
  scope            = "shop"
  citus            = { group = tonumber(each.value.number), database = "shop" }
  etcd             = pgha_etcd_cluster.dcs[each.value.site].access
  allowed_networks = ["10.77.0.0/16"]
  postgresql       = { use_pg_rewind = true, parameters = { max_slot_wal_keep_size = "10GB", tcp_user_timeout = "60s" } }
}

resource "pgha_cross_dc_replication" "shop" {
  name             = "shop"
  primary          = var.primary_site
  failover         = var.failover
  accept_data_loss = var.accept_data_loss
  sites = {
    for site, groups in var.sites : site => {
      clusters = [for number in local.numbers : { cluster = pgha_patroni_cluster.group["${site}/${number}"].membership, hosts = values(groups[number]) }]
    }
  }
}

# Nodes come after the replication: those of a datacenter that follows clone the other's.
resource "pgha_patroni_node" "db" {
  for_each   = local.nodes
  cluster    = pgha_patroni_cluster.group[each.value.group].membership
  host       = pgha_host.db[each.key].access
  name       = each.key
  versions   = { postgresql = "17.11", patroni = "4.0.7", citus = "13.2.2" }
  depends_on = [pgha_cross_dc_replication.shop]
}

# A group's place in the metadata is one for the whole formation: it is looked after where
# the formation takes writes. When that moves, this is updated in place, and no shard moves.
resource "pgha_citus_worker_group" "worker" {
  for_each          = { for number, hosts in var.sites[var.primary_site] : number => hosts if number != "0" }
  cluster           = pgha_patroni_cluster.group["${var.primary_site}/${each.key}"].membership
  nodes             = [for name in sort(keys(each.value)) : pgha_patroni_node.db[name].id]
  coordinator_nodes = [for name in sort(keys(var.sites[var.primary_site]["0"])) : pgha_patroni_node.db[name].id]
}

data "pgha_cross_dc_replication" "shop" {
  name       = pgha_cross_dc_replication.shop.name
  sites      = pgha_cross_dc_replication.shop.sites
  depends_on = [pgha_patroni_node.db]
}

output "coordinator" {
  description = "A connection string that leads to the coordinator's primary, whichever host of whichever datacenter that is."
  value       = provider::pgha::conninfo(flatten([for groups in var.sites : values(groups["0"])]), "shop", "read-write", "sslmode=verify-full")
}

output "ca_certificates" {
  description = "The authorities of all datacenters, for sslrootcert."
  value       = join("", [for site in keys(var.sites) : pgha_patroni_cluster.group["${site}/0"].ca_certificate])
}

# Warns in each plan and apply that finds something wrong, with who takes writes and how
# far the others are behind. As an output, that would be a change in each plan.
check "replication" {
  assert {
    condition     = length(data.pgha_cross_dc_replication.shop.warnings) == 0 && alltrue([for role in values(data.pgha_cross_dc_replication.shop.roles) : contains(["primary", "standby"], role)])
    error_message = join("\n", concat(data.pgha_cross_dc_replication.shop.warnings, [data.pgha_cross_dc_replication.shop.table]))
  }
}
