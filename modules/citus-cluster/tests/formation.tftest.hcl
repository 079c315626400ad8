# What is made of the map of groups. Nothing is reached for this: all hosts are only to come.

variables {
  allowed_networks = ["10.77.0.0/16"]
  versions         = { etcd = "3.5.16", patroni = "4.0.7", postgresql = "17.11", citus = "13.2.2" }
  groups = {
    "0" = { c1 = "10.77.1.11", c2 = "10.77.1.12" }
    "1" = { a1 = "10.77.1.13", a2 = "10.77.1.14" }
    "2" = { b1 = "10.77.1.15", b2 = "10.77.1.16" }
  }
}

run "three_groups" {
  command = plan
  assert {
    condition     = join(" ", keys(pgha_etcd_cluster.dcs.members)) == "a1 b1 c1"
    error_message = "etcd is on the first host of each of the first three groups."
  }
  assert {
    condition     = { for name, node in pgha_patroni_node.db : name => node.cluster.citus.group } == { c1 = 0, c2 = 0, a1 = 1, a2 = 1, b1 = 2, b2 = 2 }
    error_message = "Each node is in its group."
  }
  assert {
    condition     = join(" ", keys(pgha_citus_worker_group.worker)) == "1 2" && length(pgha_vip.group) == 0
    error_message = "The coordinator is no group of workers, and nobody asked for addresses."
  }
  assert {
    condition     = alltrue([for c in pgha_patroni_cluster.group : c.postgresql.parameters == tomap({ wal_retrieve_retry_interval = "500ms" })])
    error_message = "A former leader follows the new one soon."
  }
  assert {
    condition     = strcontains(output.coordinator, "host=10.77.1.11,10.77.1.12 ")
    error_message = "The connection string has the coordinator's nodes alone: ${output.coordinator}"
  }
}

run "addresses" {
  command = plan
  variables {
    versions = { etcd = "3.5.16", patroni = "4.0.7", postgresql = "17.11", citus = "13.2.2", vip_manager = "3.0.0" }
    vips = {
      "0" = { address = "10.77.1.100/24" }
      "2" = { address = "10.77.1.102/24", interface = "eth1" }
    }
    parameters = { wal_retrieve_retry_interval = "1s", max_connections = "200" }
  }
  assert {
    condition     = { for group, vip in pgha_vip.group : group => "${vip.address} ${vip.cluster.citus.group} ${join(" ", keys(vip.nodes))}" } == { "0" = "10.77.1.100/24 0 c1 c2", "2" = "10.77.1.102/24 2 b1 b2" } && pgha_vip.group["2"].interface == "eth1"
    error_message = "A group that has an address has it on its own nodes."
  }
  assert {
    condition     = pgha_patroni_cluster.group["1"].postgresql.parameters == tomap({ wal_retrieve_retry_interval = "1s", max_connections = "200" })
    error_message = "Parameters that are given count."
  }
}

run "address_of_no_group" {
  command = plan
  variables {
    versions = { etcd = "3.5.16", patroni = "4.0.7", postgresql = "17.11", citus = "13.2.2", vip_manager = "3.0.0" }
    vips     = { "9" = { address = "10.77.1.100/24" } }
  }
  expect_failures = [var.vips]
}

run "address_without_version" {
  command = plan
  variables {
    vips = { "0" = { address = "10.77.1.100/24" } }
  }
  expect_failures = [var.versions]
}

run "two_groups" {
  command = plan
  variables {
    groups = { "0" = { c1 = "10.77.1.11" }, "1" = { a1 = "10.77.1.13" } }
  }
  expect_failures = [var.groups]
}
