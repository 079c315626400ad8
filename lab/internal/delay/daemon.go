package delay

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"unsafe"
)

// Device is the name of the TUN device in the lab's network namespace.
const Device = "delay"

// Argv0 is the name under which this same program is started again to delay
// packets. Whatever imports the lab, the command or a test, can then serve as
// that process: there is no second program to build or to find.
const Argv0 = "pgha-lab-delay"

func init() {
	if len(os.Args) == 3 && os.Args[0] == Argv0 {
		// A test's main, or the command's, must not run.
		os.Exit(daemon(os.Args[1], os.Args[2]))
	}
}

// readyFD is where the process says "ready", or what went wrong.
const readyFD = 3

// daemon delays packets in the network namespace until it is killed.
func daemon(namespace, configFile string) int {
	// Go knows nothing of the descriptor but its number.
	ready := os.NewFile(readyFD, "ready")
	fail := func(err error) int {
		fmt.Fprintln(ready, err)
		return 1
	}
	read := func() (Config, error) {
		b, err := os.ReadFile(configFile)
		if err != nil {
			return Config{}, err
		}
		return ParseConfig(b)
	}
	config, err := read()
	if err != nil {
		return fail(err)
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	tun, err := open(namespace)
	if err != nil {
		return fail(err)
	}
	f := newForwarder(tun, config)
	go func() {
		for range hup {
			if c, err := read(); err == nil {
				f.configure(c)
			} else {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	}()
	fmt.Fprint(ready, "ready")
	ready.Close()
	if err := f.run(context.Background(), tun); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// open attaches to the device in a network namespace. A device belongs to the
// namespace of the thread that opened it, so only one thread has to go there.
func open(namespace string) (*os.File, error) {
	runtime.LockOSThread() // never unlocked: the thread is not fit for anything else
	ns, err := os.Open(namespace)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	if _, _, errno := syscall.RawSyscall(sysSetns, ns.Fd(), syscall.CLONE_NEWNET, 0); errno != 0 {
		return nil, fmt.Errorf("enter network namespace %s: %w", namespace, errno)
	}
	fd, err := syscall.Open("/dev/net/tun", syscall.O_RDWR|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun, which delays need: %w", err)
	}
	// struct ifreq: the name, then the flags.
	var req [40]byte
	copy(req[:15], Device)
	*(*uint16)(unsafe.Pointer(&req[16])) = syscall.IFF_TUN | syscall.IFF_NO_PI
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TUNSETIFF, uintptr(unsafe.Pointer(&req))); errno != 0 {
		syscall.Close(fd)
		return nil, fmt.Errorf("attach to the device %s: %w", Device, errno)
	}
	return os.NewFile(uintptr(fd), Device), nil
}
