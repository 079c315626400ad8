# The address, and the cluster as its pgha_patroni_cluster is imported.
terraform import pgha_vip.main '10.77.1.100@main@dcs@pg1=10.77.1.11,pg2=10.77.1.12,pg3=10.77.1.13'
