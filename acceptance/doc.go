// Package acceptance holds the tests on real hosts: the provider is built, the
// real CLI runs it against a lab, and what is asserted is what a user would
// see. They need root and are left out by go test -short.
package acceptance
