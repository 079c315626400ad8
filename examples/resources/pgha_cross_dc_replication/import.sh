# The name, and each site with its cluster as its pgha_patroni_cluster is imported; of a Citus formation, each group.
terraform import pgha_cross_dc_replication.main 'main dc1=main@dcs@a1=10.1.0.11,a2=10.1.0.12,a3=10.1.0.13 dc2=main@dcs@b1=10.2.0.11,b2=10.2.0.12,b3=10.2.0.13'
