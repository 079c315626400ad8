# jdbc:postgresql://10.0.0.11:5432,10.0.0.12:5432/app?targetServerType=primary&ssl=true&connectTimeout=3
output "url" {
  value = provider::pgha::jdbc_url(["10.0.0.11", "10.0.0.12"], "app", "read-write", "ssl=true")
}
