// Go's own client as it comes: URL KEY BODY… A line for each answer: its status, its protocol, its last line.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

func main() {
	for _, body := range os.Args[3:] {
		request, _ := http.NewRequest("POST", os.Args[1], strings.NewReader(body))
		request.Header.Set("Authorization", "Bearer "+os.Args[2])
		request.Header.Set("Content-Type", "application/json")
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			fmt.Println("error", err)
			continue
		}
		data, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		lines := strings.Split(strings.TrimSpace(string(data)), "\n")
		fmt.Println(answer.StatusCode, answer.Proto, lines[len(lines)-1])
	}
}
