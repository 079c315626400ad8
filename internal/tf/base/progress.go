package base

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/redact"
)

// Progress appends a JSON object a line to a file as steps start and end, for
// whoever wants to watch an apply: Terraform itself gives resources no way to
// show progress. A nil Progress writes nothing.
type Progress struct {
	mu   sync.Mutex
	file *os.File
}

// OpenProgress opens the file for appending; an empty path is nil.
func OpenProgress(path string) (*Progress, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("progress_file: %w", err)
	}
	return &Progress{file: f}, nil
}

// progressLine is the form of a line. Its names are part of what users rely on.
type progressLine struct {
	Time     string `json:"time"` // RFC 3339
	Resource string `json:"resource"`
	Step     string `json:"step"`
	Host     string `json:"host,omitempty"`
	Title    string `json:"title"`
	Risk     string `json:"risk"`
	State    string `json:"state"` // started, skipped, finished, failed
	N        int    `json:"n"`
	Of       int    `json:"of"`
	Millis   int64  `json:"ms,omitempty"`
	Error    string `json:"error,omitempty"`
}

func (p *Progress) write(secrets *redact.Set, resource string, e engine.Event) {
	if p == nil {
		return
	}
	l := progressLine{
		Time: e.Time.UTC().Format("2006-01-02T15:04:05.000Z07:00"), Resource: resource, Step: e.Step.ID, Host: e.Step.Host,
		Title: e.Step.Title, Risk: e.Step.Risk.String(), State: string(e.State), N: e.Index, Of: e.Total, Millis: e.Took.Milliseconds(),
	}
	if e.Err != nil {
		l.Error = secrets.Apply(e.Err.Error())
	}
	b, err := json.Marshal(l)
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = p.file.Write(append(b, '\n'))
}
