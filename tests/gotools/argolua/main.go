// Command argolua runs scripts as Argo CD runs its health checks and resource actions: in the same Lua engine, with
// the same few libraries, the object in the global obj. It reads a JSON object {"script", "obj", "parameters"} from each line
// of its input and prints a line {"result"} or {"error"} for it.
package main

import (
	"encoding/json"
	"os"
	"time"

	lua "github.com/yuin/gopher-lua"
)

type request struct {
	Script     string            `json:"script"`
	Obj        any               `json:"obj"`
	Parameters map[string]string `json:"parameters"`
}

type answer struct {
	Result any    `json:"result,omitempty"`
	Error  string `json:"error,omitempty"`
}

func main() {
	requests, answers := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for requests.More() {
		var asked request
		if err := requests.Decode(&asked); err != nil {
			panic(err)
		}
		if err := answers.Encode(run(asked)); err != nil {
			panic(err)
		}
	}
}

func run(asked request) answer {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	// Neither string nor math nor io, as in Argo CD unless its settings say otherwise.
	for name, open := range map[string]lua.LGFunction{
		lua.LoadLibName: lua.OpenPackage,
		lua.BaseLibName: lua.OpenBase,
		lua.TabLibName:  lua.OpenTable,
	} {
		state.Push(state.NewFunction(open))
		state.Push(lua.LString(name))
		state.Call(1, 0)
	}
	state.PreloadModule(lua.OsLibName, safeOS)
	state.SetGlobal("obj", toLua(state, asked.Obj))
	parameters := state.NewTable()
	for key, value := range asked.Parameters {
		state.SetTable(parameters, lua.LString(key), lua.LString(value))
	}
	state.SetGlobal("actionParams", parameters)
	if err := state.DoString(asked.Script); err != nil {
		return answer{Error: err.Error()}
	}
	return answer{Result: fromLua(state.Get(-1))}
}

// safeOS is what Argo CD leaves of os: a clock. This one stands still.
func safeOS(state *lua.LState) int {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	state.Push(state.SetFuncs(state.NewTable(), map[string]lua.LGFunction{
		"time": func(state *lua.LState) int { state.Push(lua.LNumber(now.Unix())); return 1 },
		"date": func(state *lua.LState) int {
			if state.CheckString(1) != "!%Y%m%d%H%M%S" {
				state.RaiseError("a format that this clock does not know")
			}
			state.Push(lua.LString(now.Format("20060102150405")))
			return 1
		},
	}))
	return 1
}

func toLua(state *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case nil:
		return lua.LNil
	case bool:
		return lua.LBool(value)
	case float64:
		return lua.LNumber(value)
	case string:
		return lua.LString(value)
	case []any:
		table := state.NewTable()
		for _, each := range value {
			table.Append(toLua(state, each))
		}
		return table
	case map[string]any:
		table := state.NewTable()
		for key, each := range value {
			table.RawSetString(key, toLua(state, each))
		}
		return table
	}
	panic("no JSON value")
}

func fromLua(value lua.LValue) any {
	switch value := value.(type) {
	case lua.LBool:
		return bool(value)
	case lua.LNumber:
		return float64(value)
	case lua.LString:
		return string(value)
	case *lua.LTable:
		if value.Len() > 0 {
			list := []any{}
			value.ForEach(func(_, each lua.LValue) { list = append(list, fromLua(each)) })
			return list
		}
		object := map[string]any{}
		value.ForEach(func(key, each lua.LValue) { object[key.String()] = fromLua(each) })
		return object
	}
	return nil
}
