# What is made of the map of sites. Nothing is reached for this: all hosts are only to come.

variables {
  allowed_networks = ["10.77.0.0/16"]
  versions         = { etcd = "3.5.16", patroni = "4.0.7", postgresql = "17.11" }
  primary_site     = "dc1"
  sites = {
    dc1 = { hosts = { a1 = "10.77.1.11", a2 = "10.77.1.12", a3 = "10.77.1.13" } }
    dc2 = { hosts = { b1 = "10.77.2.11", b2 = "10.77.2.12", b3 = "10.77.2.13" }, nodes = ["b1", "b2"] }
  }
}

run "two_sites" {
  command = plan
  assert {
    condition     = { for site, etcd in pgha_etcd_cluster.dcs : etcd.name => join(" ", keys(etcd.members)) } == { dcs-dc1 = "a1 a2 a3", dcs-dc2 = "b1 b2 b3" }
    error_message = "Each site has an etcd of its own, with the witness."
  }
  assert {
    condition     = { for name, node in pgha_patroni_node.db : name => node.cluster.etcd.name } == { a1 = "dcs-dc1", a2 = "dcs-dc1", a3 = "dcs-dc1", b1 = "dcs-dc2", b2 = "dcs-dc2" }
    error_message = "Each node is in its site's cluster, and the witness is none."
  }
  assert {
    condition     = { for site, s in pgha_cross_dc_replication.main[0].sites : site => join(" ", s.clusters[0].hosts) } == { dc1 = "10.77.1.11 10.77.1.12 10.77.1.13", dc2 = "10.77.2.11 10.77.2.12" }
    error_message = "The sites reach each other's nodes."
  }
  assert {
    condition     = pgha_cross_dc_replication.main[0].primary == "dc1" && pgha_cross_dc_replication.main[0].failover == "planned"
    error_message = "The primary is where primary_site says."
  }
  assert {
    condition = alltrue([for c in pgha_patroni_cluster.main :
      c.postgresql.use_pg_rewind && c.postgresql.parameters.max_slot_wal_keep_size == "10GB" && c.failure_detection == "normal" && c.synchronous_node_count == null
    ])
    error_message = "A site that was away does not fill the disk, and one that was given up is rewound."
  }
  assert {
    condition     = strcontains(output.conninfo, "host=10.77.1.11,10.77.1.12,10.77.1.13,10.77.2.11,10.77.2.12 ") && strcontains(output.conninfo, "target_session_attrs=read-write")
    error_message = "The connection string has the nodes of all sites: ${output.conninfo}"
  }
  assert {
    condition     = { for site, m in output.memberships : site => m.etcd.name } == { dc1 = "dcs-dc1", dc2 = "dcs-dc2" } && length(pgha_vip.primary) == 0
    error_message = "The memberships are those of the sites."
  }
}

run "moved" {
  command = plan
  variables {
    primary_site         = "dc2"
    failover             = "forced"
    accept_data_loss     = "dc1@1"
    limits               = { lag = "64MiB" }
    credentials_rotation = 2
  }
  assert {
    condition = (
      pgha_cross_dc_replication.main[0].primary == "dc2" && pgha_cross_dc_replication.main[0].failover == "forced" &&
      pgha_cross_dc_replication.main[0].accept_data_loss == "dc1@1" && pgha_cross_dc_replication.main[0].limits.lag == "64MiB"
    )
    error_message = "The variables are passed on."
  }
  assert {
    condition     = pgha_cross_dc_replication.main[0].credentials_rotation == 2 && alltrue([for c in pgha_patroni_cluster.main : c.credentials.rotation == 2])
    error_message = "New passwords are made and passed on in one apply."
  }
}

run "three_sites" {
  command = plan
  variables {
    primary_site = "dc3"
    versions     = { etcd = "3.5.16", patroni = "4.0.7", postgresql = "17.11", vip_manager = "3.0.0" }
    parameters   = { max_connections = "200" }
    sites = {
      dc1 = { hosts = { a1 = "10.77.1.11", a2 = "10.77.1.12", a3 = "10.77.1.13" }, vip = { address = "10.77.1.100/24" } }
      dc2 = { hosts = { b1 = "10.77.2.11", b2 = "10.77.2.12", b3 = "10.77.2.13" }, vip = { address = "10.77.2.100/24", interface = "eth1" } }
      dc3 = { hosts = { c1 = "10.77.3.11" }, follow = "dc2", recovery_min_apply_delay = "1h", ssh = { user = "ops", bastions = ["bastion.dc3.example.com"] } }
    }
  }
  assert {
    condition     = length(pgha_etcd_cluster.dcs) == 3 && length(pgha_patroni_cluster.main) == 3 && length(pgha_patroni_node.db) == 7 && length(pgha_cross_dc_replication.main[0].sites) == 3
    error_message = "There are three of each."
  }
  assert {
    condition     = pgha_cross_dc_replication.main[0].sites["dc3"].follow == "dc2" && pgha_cross_dc_replication.main[0].sites["dc3"].recovery_min_apply_delay == "1h"
    error_message = "A site follows whom it is told to."
  }
  assert {
    condition     = { for site, vip in pgha_vip.primary : site => "${vip.host} ${vip.follow} ${join(" ", keys(vip.nodes))}" } == { dc1 = "10.77.1.100 leader a1 a2 a3", dc2 = "10.77.2.100 leader b1 b2 b3" } && pgha_vip.primary["dc2"].interface == "eth1"
    error_message = "Each site that has an address has it on its own nodes."
  }
  assert {
    condition     = pgha_host.db["c1"].ssh.user == "ops" && pgha_host.db["a1"].ssh == null
    error_message = "A site has a way of its own for SSH."
  }
  assert {
    condition     = pgha_patroni_cluster.main["dc1"].postgresql.parameters == tomap({ max_connections = "200", max_slot_wal_keep_size = "10GB", tcp_user_timeout = "60s", wal_retrieve_retry_interval = "500ms" })
    error_message = "Parameters are added."
  }
}

run "stretched" {
  command = plan
  variables {
    etcd         = "stretched"
    primary_site = null
    sites = {
      dc1 = { hosts = { a1 = "10.77.1.11", a2 = "10.77.1.12" } }
      dc2 = { hosts = { b1 = "10.77.2.11", b2 = "10.77.2.12" } }
      dc3 = { hosts = { c1 = "10.77.3.11" }, nodes = [] }
    }
  }
  assert {
    condition     = { for etcd in pgha_etcd_cluster.dcs : etcd.name => join(" ", keys(etcd.members)) } == { dcs = "a1 a2 b1 b2 c1" }
    error_message = "There is one etcd over all hosts."
  }
  assert {
    condition     = length(pgha_patroni_cluster.main) == 1 && length(pgha_patroni_node.db) == 4 && length(pgha_cross_dc_replication.main) == 0
    error_message = "There is one cluster, and nothing to replicate between."
  }
  assert {
    condition     = pgha_patroni_cluster.main["all"].failure_detection == "wide" && pgha_patroni_cluster.main["all"].synchronous_node_count == 2
    error_message = "A commit is on one node more than a site can lose with the primary."
  }
  assert {
    condition     = join(" ", keys(output.memberships)) == "dc1 dc2 dc3" && alltrue([for m in output.memberships : m.etcd.name == "dcs"]) && output.generation == null && output.table == null
    error_message = "All sites are in the one cluster."
  }
}
