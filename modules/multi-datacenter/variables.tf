variable "sites" {
  description = "The sites by name: small letters, digits and _. Hosts have names of their own over all sites."
  type = map(object({
    # The hosts' addresses by name, at which the hosts of all sites reach them.
    hosts = map(string)
    # Which of them have PostgreSQL, and which are members of etcd; all by default. A host
    # that is a member of etcd and has no PostgreSQL is a witness: with two nodes in a site,
    # it is the third member.
    nodes = optional(set(string))
    etcd  = optional(set(string))
    # How SSH reaches the site's hosts, where that differs from the provider block.
    ssh = optional(object({ port = optional(number), user = optional(string), bastions = optional(list(string)) }))
    # An address that clients of this site can use while it has the primary, with the
    # length of its subnet's prefix.
    vip = optional(object({ address = string, interface = optional(string) }))
    # Another site that it follows while it is not the primary, and how long it waits before
    # it applies what it has received.
    follow                   = optional(string)
    recovery_min_apply_delay = optional(string)
  }))
  validation {
    condition     = contains([2, 3], length(var.sites))
    error_message = "There have to be two or three sites; there are ${length(var.sites)}."
  }
  validation {
    condition     = alltrue([for s in var.sites : length(setsubtract(setunion(coalesce(s.nodes, []), coalesce(s.etcd, [])), keys(s.hosts))) == 0])
    error_message = "nodes and etcd name hosts of their own site, and these are none: ${join(", ", flatten([for site, s in var.sites : [for name in setsubtract(setunion(coalesce(s.nodes, []), coalesce(s.etcd, [])), keys(s.hosts)) : "${name} of ${site}"]]))}."
  }
  validation {
    condition     = length(distinct(flatten([for s in var.sites : keys(s.hosts)]))) == sum([for s in var.sites : length(s.hosts)])
    error_message = "Two sites have a host of the same name: a node that has the name of a node of another site would count as that one."
  }
  validation {
    condition     = var.etcd == "stretched" || alltrue([for s in var.sites : length(coalesce(s.nodes, keys(s.hosts))) > 0])
    error_message = "There is nothing to replicate to in a site without nodes: ${join(", ", [for site, s in var.sites : site if length(coalesce(s.nodes, keys(s.hosts))) == 0])}. Give it a host with PostgreSQL, or leave it out."
  }
  validation {
    condition     = var.etcd != "stretched" || length([for s in var.sites : s if length(coalesce(s.nodes, keys(s.hosts))) > 0]) > 1
    error_message = "Only one of the sites has nodes: nobody could take over in another one."
  }
  validation {
    condition     = var.etcd == "stretched" || alltrue([for s in var.sites : contains([1, 3, 5, 7], length(coalesce(s.etcd, keys(s.hosts))))])
    error_message = "Each site's etcd has to have 1, 3, 5 or 7 members; an even number survives no more losses than one less. ${join("", [for site, s in var.sites : "${site} has ${length(coalesce(s.etcd, keys(s.hosts)))}. " if !contains([1, 3, 5, 7], length(coalesce(s.etcd, keys(s.hosts))))])}Add a witness, which is a host that is in hosts and not in nodes, or say with etcd which hosts are members."
  }
  validation {
    condition     = var.etcd != "stretched" || contains([3, 5, 7], sum([for s in var.sites : length(coalesce(s.etcd, keys(s.hosts)))]))
    error_message = "A stretched etcd has to have 3, 5 or 7 members; in all sites together there are ${sum([for s in var.sites : length(coalesce(s.etcd, keys(s.hosts)))])}. Say with etcd, in each site, which hosts are members."
  }
  validation {
    condition     = var.etcd != "stretched" || alltrue([for s in var.sites : 2 * length(coalesce(s.etcd, keys(s.hosts))) < sum([for s in var.sites : length(coalesce(s.etcd, keys(s.hosts)))])])
    error_message = "A stretched etcd has to survive the loss of any site, and one of them has half of its members or more. That takes three sites; the third one may have nothing but a member of etcd (nodes = [])."
  }
  validation {
    condition     = var.etcd != "stretched" || alltrue([for s in var.sites : s.vip == null && s.follow == null && s.recovery_min_apply_delay == null])
    error_message = "vip, follow and recovery_min_apply_delay are for sites with an etcd of their own: leave them out with etcd = \"stretched\"."
  }
}

variable "etcd" {
  description = "\"per_site\": each site has an etcd and a cluster of its own, and the primary moves to another site when primary_site says so. \"stretched\": one etcd and one cluster over three sites, with automatic failover between them; each commit waits for another site. It cannot be changed afterwards."
  type        = string
  default     = "per_site"
  validation {
    condition     = contains(["per_site", "stretched"], var.etcd)
    error_message = "etcd has to be \"per_site\" or \"stretched\"."
  }
}

variable "primary_site" {
  description = "The site that takes writes. Another one moves the primary there, as one step that loses nothing. Not with etcd = \"stretched\"."
  type        = string
  default     = null
  validation {
    condition     = var.etcd == "stretched" ? var.primary_site == null : try(contains(keys(var.sites), var.primary_site), false)
    error_message = var.etcd == "stretched" ? "With etcd = \"stretched\" Patroni chooses where the primary is: leave primary_site out." : "primary_site has to be one of the sites: ${join(", ", keys(var.sites))}."
  }
}

variable "failover" {
  description = "\"planned\" moves the primary with both sites well; \"forced\" moves it without the site that has it. Set it back afterwards."
  type        = string
  default     = "planned"
  validation {
    condition     = var.failover == "planned" || var.failover == "forced" && var.etcd != "stretched"
    error_message = "failover has to be \"planned\" or, unless etcd is \"stretched\", \"forced\"."
  }
}

variable "accept_data_loss" {
  description = "For failover = \"forced\": what the refusal of an apply without it names, such as \"dc1@3\"."
  type        = string
  default     = null
}

variable "limits" {
  description = "What a planned move may cost, as limits of pgha_cross_dc_replication."
  type        = object({ lag = optional(string), transaction = optional(string), gap = optional(string) })
  default     = null
}

variable "scope" {
  description = "Patroni's name for the cluster, the same in all sites, and the name of the replication."
  type        = string
  default     = "main"
}

variable "database" {
  description = "Database that the connection string leads to."
  type        = string
  default     = "postgres"
}

variable "etcd_name" {
  description = "Name of the etcd cluster. That of a site has the site's name after it: dcs-dc1."
  type        = string
  default     = "dcs"
}

variable "allowed_networks" {
  description = "Networks from which clients and the nodes of all sites may connect to PostgreSQL."
  type        = list(string)
}

variable "versions" {
  description = "Exact versions to install, the same in all sites; vip_manager is needed where a site has a vip."
  type        = object({ etcd = string, patroni = string, postgresql = string, vip_manager = optional(string) })
  validation {
    condition     = var.versions.vip_manager != null || alltrue([for s in var.sites : s.vip == null])
    error_message = "A site has a vip: versions has to have vip_manager, such as \"3.0.0\"."
  }
}

variable "repositories" {
  description = "Repositories for the hosts, as in apt.repositories of pgha_host; none if the hosts have all that is needed."
  type        = any
  default     = null
}

variable "failure_detection" {
  description = "How soon a lost leader is replaced: \"fast\", \"normal\" or \"wide\". By default \"normal\", and \"wide\" with etcd = \"stretched\"."
  type        = string
  default     = null
}

variable "synchronous_mode" {
  description = "\"quorum\", \"on\" or \"off\", within each cluster. Other sites that follow are asynchronous in any case; with etcd = \"stretched\" at least one node of another site has each commit."
  type        = string
  default     = "quorum"
}

variable "max_slot_wal_keep_size" {
  description = "How much WAL a primary keeps for a site that is away. It has to fit on the disk; a site that has been away for longer has to be cloned again."
  type        = string
  default     = "10GB"
}

variable "parameters" {
  description = "Parameters of PostgreSQL, the same in all sites; wal_retrieve_retry_interval is 500ms unless given."
  type        = map(string)
  default     = {}
}

variable "credentials_rotation" {
  description = "Raise it to have new passwords made, in all sites."
  type        = number
  default     = null
}

variable "deletion_protection" {
  description = "Protects etcd and the clusters of all sites from being destroyed."
  type        = bool
  default     = true
}

variable "allow_downtime" {
  description = "Whether a node may be restarted while no other one could take over: needed for upgrades where sites have two nodes."
  type        = bool
  default     = false
}
