# What was built on a host, in words that do not depend on who built it. Run as
# root; prints a text to be compared.
set -eu
cd /
echo "# packages"
dpkg-query -W -f '${db:Status-Abbrev} ${Package} ${Version}\n' etcd-server etcd-client patroni python3-etcd openssl \
	postgresql-17 postgresql-client-17
echo "# clusters of Debian's own: $(pg_lsclusters -h | wc -l)"
echo "# units"
for unit in etcd patroni; do
	systemctl show -p Id -p ActiveState -p UnitFileState -p Restart -p RestartUSec -p TimeoutStartUSec -p TimeoutStopUSec \
		-p LimitNOFILE -p OOMScoreAdjust "$unit"
done
echo "# kernel settings and limits"
cat /etc/sysctl.d/90-*.conf /etc/security/limits.d/90-*.conf | grep -v '^#'
echo "# PostgreSQL"
runuser -u postgres -- psql -XAtq <<'END'
select name || ' = ' || setting from pg_settings
	where name in ('data_checksums', 'ssl', 'max_connections', 'server_encoding', 'lc_messages', 'unix_socket_directories') order by name;
select datname || ' ' || datcollate from pg_database order by datname;
select rolname || ' ' || rolsuper || ' ' || rolreplication from pg_roles where rolcanlogin order by rolname;
select concat_ws(' ', type, database, user_name, address, netmask, auth_method) from pg_hba_file_rules order by rule_number;
END
echo "# Patroni and etcd"
python3 - <<'END'
import json, ssl, urllib.error, urllib.request, yaml

own = yaml.safe_load(open("/etc/patroni/config.yml"))

def context(ca, cert=None, key=None):
    c = ssl.create_default_context(cafile=ca)
    if cert:
        c.load_cert_chain(cert, key)
    return c

api = "https://" + own["restapi"]["connect_address"]
trust = context(own["restapi"]["cafile"])
shared = json.load(urllib.request.urlopen(api + "/config", context=trust))
print("dynamic configuration", json.dumps(shared, sort_keys=True))
try:
    urllib.request.urlopen(urllib.request.Request(api + "/config", data=b"{}", method="PATCH"), context=trust)
    print("a change without a password: accepted")
except urllib.error.HTTPError as e:
    print("a change without a password:", e.code)

etcd = own["etcd3"]
def put(title, c):
    request = urllib.request.Request("https://%s/v3/kv/put" % etcd["hosts"][0], data=b'{"key": "eA==", "value": "eA=="}')
    try:
        urllib.request.urlopen(request, context=c)
        print(title, "accepted")
    except urllib.error.HTTPError as e:
        print(title, json.load(e).get("message"))
    except (urllib.error.URLError, OSError):
        print(title, "no connection")

put("etcd, without a certificate:", context(etcd["cacert"]))
put("etcd, without a password:", context(etcd["cacert"], etcd["cert"], etcd["key"]))
END
