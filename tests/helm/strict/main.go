// Reads rendered manifests, as Kubernetes' own types and strictly: a field that a type does not have, or a value of the wrong kind, is
// an error. Writes them as a JSON list.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	reader := yaml.NewYAMLReader(bufio.NewReader(in))
	all := []json.RawMessage{}
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return json.NewEncoder(out).Encode(all)
		}
		if err != nil {
			return err
		}
		plain, err := yaml.ToJSON(document)
		if err != nil {
			return err
		}
		if bytes.Equal(bytes.TrimSpace(plain), []byte("null")) {
			continue
		}
		// What is not Kubernetes' own, such as a ServiceMonitor, has no type here.
		if _, kind, err := decoder.Decode(document, nil, nil); err != nil && !runtime.IsNotRegisteredError(err) {
			return fmt.Errorf("%v: %w", kind, err)
		}
		all = append(all, plain)
	}
}
