variable "tsig_secret" {
  type      = string
  sensitive = true
  ephemeral = true
}

resource "pgha_dns_record" "main" {
  cluster = pgha_patroni_cluster.main.membership
  nodes   = { for name, node in pgha_patroni_node.db : name => node.id }
  zone    = "pg.example.org"
  name    = "db"
  servers = ["10.77.0.53", "10.77.0.54"]
  key     = { name = "pgha", secret_wo = var.tsig_secret, secret_wo_version = 1 }
}
