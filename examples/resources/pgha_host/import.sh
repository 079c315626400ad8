# NAME=ADDRESS. Where SSH differs from the provider block, options follow:
# pg1=10.77.1.11?user=admin&port=2222&bastions=jump%40192.0.2.1
terraform import 'pgha_host.db["pg1"]' 'pg1=10.77.1.11'
