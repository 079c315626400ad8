package sshtest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func pair() (net.Conn, net.Conn) { return memPipe(memAddr("a"), memAddr("b")) }

func TestMemConn(t *testing.T) {
	a, b := pair()
	sent := bytes.Repeat([]byte("0123456789"), 50_000)
	go func() {
		a.Write(sent)
		a.Close()
	}()
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := b.Write([]byte("x")); err == nil {
		t.Error("writing to who has closed")
	}
	if _, err := a.Read(got); !errors.Is(err, net.ErrClosed) {
		t.Errorf("reading after closing: %v", err)
	}
	if _, err := a.Write(got); !errors.Is(err, net.ErrClosed) {
		t.Errorf("writing after closing: %v", err)
	}
	b.Close()
}

// TestMemConnSpeakFirst pins what SSH needs: both sides may write before either
// has read.
func TestMemConnSpeakFirst(t *testing.T) {
	a, b := pair()
	for _, c := range []net.Conn{a, b} {
		if _, err := io.WriteString(c, "hello"); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 5)
	for _, c := range []net.Conn{a, b} {
		if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "hello" {
			t.Errorf("%q, %v", buf, err)
		}
	}
}

func TestMemConnDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair()
		defer a.Close()
		defer b.Close()
		wantTimeout := func(err error) {
			t.Helper()
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("not a timeout: %v", err)
			}
		}
		buf := make([]byte, 5)
		begin := time.Now()
		a.SetDeadline(begin.Add(time.Minute))
		_, err := a.Read(buf)
		wantTimeout(err)
		if took := time.Since(begin); took != time.Minute {
			t.Errorf("took %s", took)
		}
		synctest.Wait() // reading and writing have a timer each
		_, err = a.Write(buf)
		wantTimeout(err)

		// It can be taken back, and set while somebody reads.
		a.SetDeadline(time.Time{})
		io.WriteString(b, "hello")
		if _, err := io.ReadFull(a, buf); err != nil {
			t.Error(err)
		}
		reading := make(chan error)
		go func() {
			_, err := a.Read(make([]byte, 1))
			reading <- err
		}()
		synctest.Wait()
		a.SetReadDeadline(time.Unix(1, 0))
		wantTimeout(<-reading)

		// Writing blocks when nobody reads.
		a.SetWriteDeadline(time.Now().Add(time.Minute))
		n, err := a.Write(make([]byte, 2*memBuffer))
		wantTimeout(err)
		if n != memBuffer {
			t.Errorf("%d bytes were taken", n)
		}
	})
}

func TestNetwork(t *testing.T) {
	var n Network
	if _, err := n.Dial(t.Context(), "tcp", "pg1:22"); err == nil {
		t.Error("nobody listens")
	}
	l, err := n.Listen("pg1:22")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Listen("pg1:22"); err == nil {
		t.Error("two listen")
	}
	if got := l.Addr().String(); got != "pg1:22" {
		t.Errorf("listens on %s", got)
	}
	go func() {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		io.WriteString(c, "hi")
		c.Close()
	}()
	c, err := n.Dial(t.Context(), "tcp", "pg1:22")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); string(got) != "hi" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	c.Close()
	l.Close()
	if _, err := n.Dial(t.Context(), "tcp", "pg1:22"); err == nil {
		t.Error("nobody listens any more")
	}
}
