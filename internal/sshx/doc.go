// Package sshx reaches hosts over SSH: it implements package host with
// golang.org/x/crypto/ssh.
//
// A Fleet keeps one connection per host and set of parameters. It is dialled
// at first use, by one caller for all, and is replaced at the next use after it
// was lost. Jump hosts are connections like any other, so hosts behind the same
// one share it.
//
// A script runs in three steps: the login shell starts our launcher, the
// launcher becomes the wanted user and starts a wrapper, and the wrapper starts
// the script after we have told it to go (package wire has the details). So as
// long as we have not said go, the script has provably not run, and the failure
// is one of getting there; only after it is the outcome unknown. The data that
// a script reads is sent after go as well, never to a shell that merely looks
// like ours.
//
// One session per connection is kept, and takes scripts one after the other: the
// wrapper is started anew for each. Scripts at the same time, those that are
// started and left to the caller, and those of the account that logged in have
// sessions of their own.
//
// Nothing here repeats a script. What is repeated is opening a session, and
// what came before go, once, if the connection turned out to be dead.
package sshx
