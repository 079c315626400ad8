variable "groups" {
  description = "The hosts' addresses by name, by number of the group. Group 0 is the coordinator's."
  type        = map(map(string))
  validation {
    condition     = contains(keys(var.groups), "0") && length(var.groups) >= 3 && alltrue([for group, hosts in var.groups : can(tonumber(group)) && length(hosts) > 0])
    error_message = "There has to be a group 0, the coordinator's, and at least two groups of workers, each with a host: etcd is on the first host of each of the first three."
  }
}

variable "scope" {
  description = "Patroni's name for the formation."
  type        = string
  default     = "citus"
}

variable "database" {
  description = "The one database that is distributed."
  type        = string
  default     = "citus"
}

variable "etcd_name" {
  description = "Name of the etcd cluster."
  type        = string
  default     = "dcs"
}

variable "allowed_networks" {
  description = "Networks from which clients and the nodes themselves may connect to PostgreSQL."
  type        = list(string)
}

variable "versions" {
  description = "Exact versions to install; citus_extension is that of the extension, such as \"13.2-1\", to be raised together with citus; vip_manager is needed with vips."
  type        = object({ etcd = string, patroni = string, postgresql = string, citus = string, citus_extension = optional(string), vip_manager = optional(string) })
  validation {
    condition     = var.versions.vip_manager != null || length(var.vips) == 0
    error_message = "There are vips: versions has to have vip_manager, such as \"3.0.0\"."
  }
}

variable "vips" {
  description = "Virtual IP addresses that follow groups' leaders, by number of the group, each with the length of its subnet's prefix: \"0\" is the coordinator's. The interface is found from the address unless given."
  type        = map(object({ address = string, interface = optional(string) }))
  default     = {}
  validation {
    condition     = length(setsubtract(keys(var.vips), keys(var.groups))) == 0
    error_message = "vips are by number of a group, and these are none: ${join(", ", setsubtract(keys(var.vips), keys(var.groups)))}."
  }
}

variable "repositories" {
  description = "Repositories that have Citus, as in apt.repositories of pgha_host; none if the hosts have one already."
  type        = any
  default     = null
}

variable "parameters" {
  description = "Parameters of PostgreSQL, the same in all groups; wal_retrieve_retry_interval is 500ms unless given."
  type        = map(string)
  default     = {}
}

variable "rebalance" {
  description = "Whether shards are moved onto a group that joins: \"on_join\" or \"manual\"."
  type        = string
  default     = "on_join"
}

variable "deletion_protection" {
  description = "Protects etcd and all groups from being destroyed."
  type        = bool
  default     = true
}

variable "allow_downtime" {
  description = "Whether a node may be restarted while no other one could take over: needed for upgrades where groups have two nodes."
  type        = bool
  default     = false
}
