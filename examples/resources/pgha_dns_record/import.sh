# The name, and the cluster as its pgha_patroni_cluster is imported. The key's secret stays where it is, on the hosts.
terraform import pgha_dns_record.main 'db.pg.example.org@main@dcs@pg1=10.77.1.11,pg2=10.77.1.12,pg3=10.77.1.13'
