package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// How often the memory of processes is looked at, and on every how many looks
// new processes are looked for. The kernel keeps the peak itself, so that only
// what a process takes in its last moments can be missed.
const (
	lookEvery  = 10 * time.Millisecond
	lookForNew = 10
)

// watchPeak watches the processes that run a program. The function that it
// returns ends that, and returns the most memory that any of them had, in bytes.
func watchPeak(ctx context.Context, program string) func() (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	peak := make(chan int64)
	go func() {
		var most int64
		var pids []string
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for n := 0; ; n++ {
			if n%lookForNew == 0 {
				pids = running(program)
			}
			for _, pid := range pids {
				most = max(most, peakOf(pid))
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				peak <- most
				return
			}
		}
	}()
	return func() (int64, error) {
		cancel()
		if most := <-peak; most > 0 {
			return most, nil
		}
		return 0, errors.New("the provider's process was not seen")
	}
}

// running lists the processes that run a program.
func running(program string) []string {
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	var pids []string
	for _, l := range links {
		if exe, err := os.Readlink(l); err == nil && exe == program {
			pids = append(pids, filepath.Base(filepath.Dir(l)))
		}
	}
	return pids
}

// peakOf is a process's VmHWM in bytes (proc_pid_status(5)), zero if it is gone.
func peakOf(pid string) int64 {
	b, err := os.ReadFile(filepath.Join("/proc", pid, "status"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kib << 10
		}
	}
	return 0
}
