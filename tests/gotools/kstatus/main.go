// Command kstatus tells how Flux, Helm and kubectl's appliers see objects. It reads an object as JSON from each line of its
// input and prints a line {"status", "message"} for it.
package main

import (
	"encoding/json"
	"os"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

type answer struct {
	Status  status.Status `json:"status"`
	Message string        `json:"message"`
}

func main() {
	objects, answers := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for objects.More() {
		// Numbers must be int64, as a client of the API server has them.
		var line json.RawMessage
		if err := objects.Decode(&line); err != nil {
			panic(err)
		}
		object := &unstructured.Unstructured{}
		if err := object.UnmarshalJSON(line); err != nil {
			panic(err)
		}
		result, err := status.Compute(object)
		if err != nil {
			panic(err)
		}
		if err := answers.Encode(answer{result.Status, result.Message}); err != nil {
			panic(err)
		}
	}
}
