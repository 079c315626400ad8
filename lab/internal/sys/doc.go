// Package sys is what the lab needs from the machine it runs on: commands,
// file locks, control groups and mounts. It knows nothing of labs.
package sys
