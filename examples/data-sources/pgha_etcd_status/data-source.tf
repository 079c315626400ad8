data "pgha_etcd_status" "dcs" {
  etcd = pgha_etcd_cluster.dcs.access
}

output "etcd" {
  value = data.pgha_etcd_status.dcs.table
}

# Warns in each plan and apply that finds a member ill, or a certificate that
# ends within four weeks.
check "etcd_is_well" {
  assert {
    condition     = data.pgha_etcd_status.dcs.healthy
    error_message = join("\n", concat(data.pgha_etcd_status.dcs.warnings, [data.pgha_etcd_status.dcs.table]))
  }
  assert {
    condition = alltrue([
      for m in data.pgha_etcd_status.dcs.members : timecmp(m.server_certificate_expires, timeadd(plantimestamp(), "672h")) > 0
      if m.server_certificate_expires != null
    ])
    error_message = "A certificate of the etcd cluster ends within four weeks: apply to renew it."
  }
}
