# NODE=ADDRESS@ and the id of its Patroni cluster.
terraform import 'pgha_patroni_node.db["pg1"]' 'pg1=10.77.1.11@main@dcs@pg1=10.77.1.11,pg2=10.77.1.12,pg3=10.77.1.13'
