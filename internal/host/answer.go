package host

import (
	"context"
	"net"
	"strconv"
	"time"
)

// AnswerTime is the shortest of a few tries to connect from a host to an address; being
// refused is an answer, too. Zero means none. What the way to the host takes is part of it:
// the difference of two is the longer way of one of them.
func AnswerTime(ctx context.Context, h Host, address string, port int) time.Duration {
	var best time.Duration
	for range 4 {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		begin := time.Now()
		c, err := h.Dial(ctx, "tcp", net.JoinHostPort(address, strconv.Itoa(port)))
		took := time.Since(begin)
		timedOut := ctx.Err() != nil
		cancel()
		if c != nil {
			_ = c.Close()
		}
		if timedOut || err != nil && KindOf(err) != KindDial {
			return 0
		}
		if best == 0 || took < best {
			best = took
		}
	}
	return best
}
