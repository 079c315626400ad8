# host=10.0.0.11,10.0.0.12 port=5432,5432 dbname=app target_session_attrs=read-write sslmode=verify-full connect_timeout=3
output "conninfo" {
  value = provider::pgha::conninfo(["10.0.0.11", "10.0.0.12"], "app", "read-write", "sslmode=verify-full")
}
