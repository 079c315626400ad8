package acceptance

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"
)

// etcdStatus is pgha_etcd_status in an output named "status".
type etcdStatus struct {
	ClusterID string             `json:"cluster_id"`
	Leader    string             `json:"leader"`
	Healthy   bool               `json:"healthy"`
	Members   []etcdStatusMember `json:"members"`
	Table     string             `json:"table"`
	Warnings  []string           `json:"warnings"`
	Snapshot  *struct {
		Member, Path string
		Age, Size    int64
	} `json:"snapshot"`
}

type etcdStatusMember struct {
	Name, ID, Role, Version string
	Healthy                 bool
	Lag                     *int64
	Problem, Error          string
	DBSize                  *int64 `json:"db_size"`
	InUse                   int64  `json:"db_size_in_use"`
	Quota                   int64
	Alarms                  []string
	ServerExpires           string `json:"server_certificate_expires"`
	CAExpires               string `json:"ca_certificate_expires"`
}

// etcdStatus reads the data source, and nothing else.
func (s *site) etcdStatus(ctx context.Context) etcdStatus {
	s.t.Helper()
	s.Write("status.tf", `data "pgha_etcd_status" "dcs" { etcd = pgha_etcd_cluster.dcs.access }
output "status" { value = data.pgha_etcd_status.dcs }
`)
	s.Apply(ctx, "-refresh=false")
	var st etcdStatus
	s.Outputs(ctx, "status", &st)
	return st
}

// checkEtcdStatus compares the data source with what etcdctl and openssl say, and
// looks what it shows of a member whose host has no power.
func (s *site) checkEtcdStatus(ctx context.Context) {
	s.t.Helper()
	st := s.etcdStatus(ctx)
	s.t.Logf("\n%s", st.Table)
	var said []struct {
		Endpoint string
		Status   struct {
			Header struct {
				Member uint64 `json:"member_id"`
			}
			Version string
			DBSize  int64
			Leader  uint64
		}
	}
	text := s.etcdctl("e1", "endpoint status --cluster -w json")
	if err := json.Unmarshal([]byte(text), &said); err != nil {
		s.t.Fatalf("%v: %s", err, text)
	}
	if !st.Healthy || len(st.Warnings) > 0 || len(st.Members) != len(said) {
		s.t.Errorf("a healthy cluster of %d members: %+v", len(said), st)
	}
	for _, m := range st.Members {
		found := false
		for _, e := range said {
			if strconv.FormatUint(e.Status.Header.Member, 16) != m.ID {
				continue
			}
			found = true
			leads := e.Status.Leader == e.Status.Header.Member
			if !strings.Contains(e.Endpoint, s.lab.Host(m.Name).Addr) || e.Status.Version != m.Version || leads != (m.Role == "leader") || leads != (st.Leader == m.Name) {
				s.t.Errorf("%+v, and etcdctl says %+v", m, e)
			}
		}
		if !found || m.Lag == nil || *m.Lag > 10 || m.DBSize == nil || *m.DBSize < m.InUse || m.InUse == 0 || m.Quota != 2<<30 {
			s.t.Errorf("%s: %+v", m.Name, m)
		}
		for file, expires := range map[string]string{"server": m.ServerExpires, "ca": m.CAExpires} {
			end := s.on(m.Name, "date -u +%FT%TZ -d \"$(openssl x509 -noout -enddate -in /etc/pgha/etcd/dcs/"+file+".crt | cut -d= -f2)\"")
			if end != expires {
				s.t.Errorf("%s of %s ends %s, and the data source says %s", file, m.Name, end, expires)
			}
		}
	}

	away := "e5"
	if st.Leader == away {
		away = "e4"
	}
	if err := s.lab.Kill(ctx, away); err != nil {
		s.t.Fatal(err)
	}
	s.Setenv("PGHA_SSH_CONNECT_TIMEOUT=3s")
	begin := time.Now()
	st = s.etcdStatus(ctx)
	s.t.Logf("with %s without power, after %s:\n%s", away, time.Since(begin).Round(time.Millisecond), st.Table)
	i := slices.IndexFunc(st.Members, func(m etcdStatusMember) bool { return m.Name == away })
	if m := st.Members[i]; st.Healthy || st.Leader == "" || m.Healthy || m.Lag != nil || m.DBSize != nil || m.Error == "" || m.ID == "" || !strings.Contains(m.Problem, "does not answer") {
		s.t.Errorf("of a host without power: %+v", m)
	}
	for _, m := range st.Members {
		if m.Name != away && !m.Healthy {
			s.t.Errorf("%s counts as ill because %s is away: %s", m.Name, away, m.Problem)
		}
	}
	if err := s.lab.Start(ctx, away); err != nil {
		s.t.Fatal(err)
	}
	s.eventually("all members to be healthy", 60*time.Second, func(ctx context.Context) (bool, string) {
		st := s.etcdStatus(ctx)
		return st.Healthy, st.Table
	})
}
