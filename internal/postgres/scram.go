package postgres

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
)

// scramIterations is PostgreSQL's own number (scram_iterations).
const scramIterations = 4096

// ScramVerifier is what PostgreSQL stores of a password, made here so that the
// password itself never reaches the server: ALTER ROLE takes it as it is. It
// returns false for a password that is not plain ASCII: the server prepares such
// a one first (SASLprep), which is left to the server.
func ScramVerifier(password string) (string, bool) {
	salt := make([]byte, 16)
	_, _ = rand.Read(salt)
	return scram(password, salt, scramIterations)
}

// ScramMatches reports whether a verifier is of a password.
func ScramMatches(password, verifier string) bool {
	fields := strings.Split(strings.TrimPrefix(verifier, "SCRAM-SHA-256$"), "$")
	if len(fields) != 2 || !strings.HasPrefix(verifier, "SCRAM-SHA-256$") {
		return false
	}
	count, encoded, _ := strings.Cut(fields[0], ":")
	iterations, err := strconv.Atoi(count)
	if err != nil || iterations < 1 || iterations > 10_000_000 {
		return false
	}
	salt, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return false
	}
	want, ok := scram(password, salt, iterations)
	return ok && subtle.ConstantTimeCompare([]byte(want), []byte(verifier)) == 1
}

// scram is RFC 5802 with SHA-256, in the form of pg_authid.rolpassword.
func scram(password string, salt []byte, iterations int) (string, bool) {
	for i := range len(password) {
		if password[i] < ' ' || password[i] > '~' {
			return "", false
		}
	}
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		return "", false
	}
	sign := func(text string) []byte {
		h := hmac.New(sha256.New, salted)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	stored := sha256.Sum256(sign("Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, b64(salt), b64(stored[:]), b64(sign("Server Key"))), true
}
