# NAME@MEMBER=ADDRESS,... with all members, at the addresses that clients use.
terraform import pgha_etcd_cluster.dcs 'dcs@pg1=10.77.1.11,pg2=10.77.1.12,pg3=10.77.1.13'
