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
