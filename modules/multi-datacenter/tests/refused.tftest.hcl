# What no datacenters can be, and what is refused before anything is planned.

variables {
  allowed_networks = ["10.77.0.0/16"]
  versions         = { etcd = "3.5.16", patroni = "4.0.7", postgresql = "17.11" }
  primary_site     = "dc1"
  sites = {
    dc1 = { hosts = { a1 = "10.77.1.11", a2 = "10.77.1.12", a3 = "10.77.1.13" } }
    dc2 = { hosts = { b1 = "10.77.2.11", b2 = "10.77.2.12", b3 = "10.77.2.13" } }
  }
}

run "unknown_primary_site" {
  command = plan
  variables { primary_site = "dc9" }
  expect_failures = [var.primary_site]
}

run "no_primary_site" {
  command = plan
  variables { primary_site = null }
  expect_failures = [var.primary_site]
}

run "one_site" {
  command = plan
  variables {
    sites = { dc1 = { hosts = { a1 = "10.77.1.11" } } }
  }
  expect_failures = [var.sites]
}

run "site_without_nodes" {
  command = plan
  variables {
    sites = {
      dc1 = { hosts = { a1 = "10.77.1.11" } }
      dc2 = { hosts = { b1 = "10.77.2.11" }, nodes = [] }
    }
  }
  expect_failures = [var.sites]
}

run "even_number_of_members_of_etcd" {
  command = plan
  variables {
    sites = {
      dc1 = { hosts = { a1 = "10.77.1.11", a2 = "10.77.1.12", a3 = "10.77.1.13" } }
      dc2 = { hosts = { b1 = "10.77.2.11", b2 = "10.77.2.12" } }
    }
  }
  expect_failures = [var.sites]
}

run "no_member_of_etcd" {
  command = plan
  variables {
    sites = {
      dc1 = { hosts = { a1 = "10.77.1.11" } }
      dc2 = { hosts = { b1 = "10.77.2.11" }, etcd = [] }
    }
  }
  expect_failures = [var.sites]
}

run "node_that_is_no_host" {
  command = plan
  variables {
    sites = {
      dc1 = { hosts = { a1 = "10.77.1.11" } }
      dc2 = { hosts = { b1 = "10.77.2.11" }, nodes = ["b1", "b2"] }
    }
  }
  expect_failures = [var.sites]
}

run "same_name_in_two_sites" {
  command = plan
  variables {
    sites = {
      dc1 = { hosts = { pg1 = "10.77.1.11" } }
      dc2 = { hosts = { pg1 = "10.77.2.11" } }
    }
  }
  expect_failures = [var.sites]
}

run "vip_without_a_version" {
  command = plan
  variables {
    sites = {
      dc1 = { hosts = { a1 = "10.77.1.11" }, vip = { address = "10.77.1.100/24" } }
      dc2 = { hosts = { b1 = "10.77.2.11" } }
    }
  }
  expect_failures = [var.versions]
}

run "stretched_over_two_sites" {
  command = plan
  variables {
    etcd         = "stretched"
    primary_site = null
    sites = {
      dc1 = { hosts = { a1 = "10.77.1.11", a2 = "10.77.1.12" } }
      dc2 = { hosts = { b1 = "10.77.2.11" } }
    }
  }
  expect_failures = [var.sites]
}

run "stretched_with_an_even_number" {
  command = plan
  variables {
    etcd         = "stretched"
    primary_site = null
    sites = {
      dc1 = { hosts = { a1 = "10.77.1.11", a2 = "10.77.1.12" } }
      dc2 = { hosts = { b1 = "10.77.2.11" } }
      dc3 = { hosts = { c1 = "10.77.3.11" } }
    }
  }
  expect_failures = [var.sites]
}

run "stretched_with_nodes_in_one_site" {
  command = plan
  variables {
    etcd         = "stretched"
    primary_site = null
    sites = {
      dc1 = { hosts = { a1 = "10.77.1.11" } }
      dc2 = { hosts = { b1 = "10.77.2.11" }, nodes = [] }
      dc3 = { hosts = { c1 = "10.77.3.11" }, nodes = [] }
    }
  }
  expect_failures = [var.sites]
}

run "stretched_with_a_primary_site" {
  command = plan
  variables {
    etcd     = "stretched"
    failover = "forced"
    sites = {
      dc1 = { hosts = { a1 = "10.77.1.11" } }
      dc2 = { hosts = { b1 = "10.77.2.11" } }
      dc3 = { hosts = { c1 = "10.77.3.11" }, nodes = [] }
    }
  }
  expect_failures = [var.primary_site, var.failover]
}

run "stretched_with_what_is_for_two_clusters" {
  command = plan
  variables {
    etcd         = "stretched"
    primary_site = null
    versions     = { etcd = "3.5.16", patroni = "4.0.7", postgresql = "17.11", vip_manager = "3.0.0" }
    sites = {
      dc1 = { hosts = { a1 = "10.77.1.11" }, vip = { address = "10.77.1.100/24" } }
      dc2 = { hosts = { b1 = "10.77.2.11" } }
      dc3 = { hosts = { c1 = "10.77.3.11" } }
    }
  }
  expect_failures = [var.sites]
}

run "neither_of_the_topologies" {
  command = plan
  variables { etcd = "shared" }
  expect_failures = [var.etcd]
}
