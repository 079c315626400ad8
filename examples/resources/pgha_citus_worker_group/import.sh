# As its pgha_patroni_cluster: the number of the group follows the scope.
terraform import pgha_citus_worker_group.one 'shop:1@dcs@c1=10.77.1.11,a1=10.77.1.12,b1=10.77.1.13'
