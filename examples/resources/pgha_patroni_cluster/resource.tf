resource "pgha_patroni_cluster" "main" {
  scope             = "main"
  etcd              = pgha_etcd_cluster.dcs.access
  failure_detection = "fast"
  synchronous_mode  = "quorum"
  allowed_networks  = ["10.0.0.0/16"]

  maximum_lag_on_failover = "16MiB"

  postgresql = {
    parameters = {
      max_connections = "300"
      shared_buffers  = "4GB"
      work_mem        = "32MB"
    }
  }

  # Without this a password is made. The value is in no plan and no state.
  credentials = {
    superuser = {
      password_wo         = var.superuser_password
      password_wo_version = 1
    }
  }
}

variable "superuser_password" {
  type      = string
  ephemeral = true
}
