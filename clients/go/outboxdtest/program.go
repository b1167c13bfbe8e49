package outboxdtest

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// wrapper ends its program when its own input ends, which it does however this process ends.
const wrapper = `"$@" & p=$!; cat >/dev/null; kill -9 $p; wait $p`

type program struct {
	command *exec.Cmd
	input   io.Closer
	log     string
}

func (s *Servers) launch(path string, env []string, arguments ...string) (*program, error) {
	command := exec.Command("sh", append([]string{"-c", wrapper, "sh", path}, arguments...)...)
	command.Env = append(os.Environ(), env...)
	input, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}

	log := filepath.Join(s.folder, fmt.Sprintf("%d-%s.log", len(s.started), filepath.Base(path)))
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer out.Close() //nolint:errcheck // the program has its own
	command.Stdout, command.Stderr = out, out
	if err := command.Start(); err != nil {
		return nil, err
	}

	p := &program{command: command, input: input, log: log}
	s.started = append(s.started, p)
	return p, nil
}

// kill returns once the program has ended. It may be called more than once.
func (p *program) kill() {
	_ = p.input.Close()
	_ = p.command.Wait()
}

func (p *program) until(what string, done func() bool) error {
	for end := time.Now().Add(patience); !done(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			text, err := os.ReadFile(p.log)
			if err != nil {
				return err
			}
			lines := strings.Split(string(text), "\n")
			return fmt.Errorf("not within %s: %s; its log:\n%s", patience, what, strings.Join(lines[max(0, len(lines)-20):], "\n"))
		}
	}
	return nil
}

func migrate(path string, env []string) ([]byte, error) {
	command := exec.Command(path, "migrate")
	command.Env = append(os.Environ(), env...)
	return command.CombinedOutput()
}

// find returns the path of a program.
func find(name, variable, cached string) (string, error) {
	if path := os.Getenv(variable); path != "" {
		return path, nil
	}
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}

	cache := os.Getenv("OUTBOXD_CACHE")
	if cache == "" {
		folder, err := os.UserCacheDir() // XDG_CACHE_HOME, or ~/.cache
		if err != nil {
			return "", err
		}
		cache = filepath.Join(folder, "outboxd")
	}
	paths, err := filepath.Glob(filepath.Join(cache, cached+"*"))
	if err != nil {
		return "", err
	}
	slices.Sort(paths)
	for _, path := range slices.Backward(paths) {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("no %s: set %s to its path, or put it on PATH or as %s* into %s", name, variable, cached, cache)
}
