# SCOPE@ and the id of its etcd cluster. Another namespace than /service/ goes
# before the scope: /db/main@dcs@... If no node runs on a host of etcd, name one:
# main@db1=10.77.1.21@dcs@...
terraform import pgha_patroni_cluster.main 'main@dcs@pg1=10.77.1.11,pg2=10.77.1.12,pg3=10.77.1.13'
