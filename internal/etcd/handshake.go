package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"net"

	"google.golang.org/grpc/credentials"
)

// handshakes are TLS as gRPC does it, but that what comes of each handshake is told.
type handshakes struct {
	credentials.TransportCredentials
	tell func(address string, err error)
}

// dialed is a connection that knows the address of the member it was made to, which
// one through SSH does not.
type dialed struct {
	net.Conn
	address string
}

func (h *handshakes) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := h.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if d, ok := raw.(*dialed); ok && err != nil {
		h.tell(d.address, err)
	}
	return c, info, err
}

func (h *handshakes) Clone() credentials.TransportCredentials {
	return &handshakes{h.TransportCredentials.Clone(), h.tell}
}

// distrusted reports whether a handshake has failed of the member's certificate.
func distrusted(err error) bool { return errors.As(err, new(*tls.CertificateVerificationError)) }
