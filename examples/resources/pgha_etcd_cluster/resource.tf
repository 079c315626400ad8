resource "pgha_host" "etcd" {
  for_each = { e1 = "10.0.0.21", e2 = "10.0.0.22", e3 = "10.0.0.23" }
  name     = each.key
  address  = each.value
}

resource "pgha_etcd_cluster" "dcs" {
  name    = "dcs"
  version = "3.5.16"
  members = { for name, host in pgha_host.etcd : name => { host = host.access } }

  # The leader's host takes one every six hours and keeps those of a week.
  snapshots = { schedule = "*-*-* 00/6:00", keep = 28 }

  # Members' certificates are renewed by an apply from 60 days before their end.
  certificates = { renew_before = "1440h" }
}

# With certificates that somebody else makes on the hosts, and renews there.
resource "pgha_etcd_cluster" "corporate" {
  name    = "corporate"
  version = "3.5.16"
  members = { for name, host in pgha_host.corporate : name => { host = host.access } }

  certificates = {
    files = {
      server  = { certificate = "/etc/ssl/corp/{name}.crt", key = "/etc/ssl/corp/{name}.key" }
      peer    = { certificate = "/etc/ssl/corp/peer.crt", key = "/etc/ssl/corp/peer.key", common_name = "corporate-peer" }
      trusted = "/etc/ssl/corp/ca.crt"
    }
    patroni_files = {
      certificate = "/etc/ssl/corp/patroni.crt"
      key         = "/etc/ssl/corp/patroni.key"
      trusted     = "/etc/ssl/corp/ca.crt"
    }
  }
}

resource "pgha_host" "corporate" {
  for_each = { c1 = "10.0.0.31", c2 = "10.0.0.32", c3 = "10.0.0.33" }
  name     = each.key
  address  = each.value
}
