resource "pgha_host" "pg1" {
  name    = "pg1"
  address = "10.0.0.11"
}

data "pgha_host_facts" "pg1" {
  host = pgha_host.pg1.access
}

output "postgresql" {
  value = try(data.pgha_host_facts.pg1.packages["postgresql-17"].version, "not installed")
}
