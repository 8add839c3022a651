// Prometheus' own parser and engine, for tests of alerts and dashboards. Reads JSON from standard input.
//
//	promql          a list of expressions: prints what the parser finds wrong, a line each
//	promql alerts   rules, series and a span of time: prints the alerts that fire in it, as JSON
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
)

type question struct {
	Rules  []struct{ Alert, Expr, For string }
	Series []struct {
		Labels  map[string]string
		Samples [][2]float64 // seconds, value
	}
	End, Step float64 // seconds
}

type answer struct {
	Alert  string            `json:"alert"`
	Labels map[string]string `json:"labels"`
	At     float64           `json:"at"` // seconds
}

func main() {
	var err error
	if len(os.Args) > 1 && os.Args[1] == "alerts" {
		err = alerts()
	} else {
		err = check()
	}
	if err != nil {
		panic(err)
	}
}

func check() error {
	var expressions []string
	if err := json.NewDecoder(os.Stdin).Decode(&expressions); err != nil {
		return err
	}
	for _, expression := range expressions {
		if _, err := parser.ParseExpr(expression); err != nil {
			fmt.Printf("%s: %v\n", expression, err)
		}
	}
	return nil
}

func alerts() error {
	var asked question
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		return err
	}
	store := memory{}
	for _, each := range asked.Series {
		series := promql.Series{Metric: labels.FromMap(each.Labels)}
		for _, sample := range each.Samples {
			series.Floats = append(series.Floats, promql.FPoint{T: int64(sample[0] * 1000), F: sample[1]})
		}
		store = append(store, series)
	}
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 50_000_000, Timeout: time.Minute})
	step := time.Duration(asked.Step * float64(time.Second))
	fired := []answer{}
	for _, rule := range asked.Rules {
		held, err := model.ParseDuration(orZero(rule.For))
		if err != nil {
			return err
		}
		query, err := engine.NewRangeQuery(context.Background(), store, nil, rule.Expr, time.Unix(0, 0), time.UnixMilli(int64(asked.End*1000)), step)
		if err != nil {
			return err
		}
		result := query.Exec(context.Background())
		matrix, err := result.Matrix()
		if err != nil {
			return err
		}
		for _, series := range matrix {
			if at, ok := firesAt(series, step, time.Duration(held)); ok {
				fired = append(fired, answer{rule.Alert, series.Metric.Map(), at.Seconds()})
			}
		}
		query.Close()
	}
	return json.NewEncoder(os.Stdout).Encode(fired)
}

func orZero(text string) string {
	if text == "" {
		return "0s"
	}
	return text
}

// firesAt says when the expression has held at every evaluation for the time that the rule asks, as Prometheus does.
func firesAt(series promql.Series, step, held time.Duration) (time.Duration, bool) {
	var since, last time.Duration = -1, 0
	for _, point := range series.Floats {
		at := time.Duration(point.T) * time.Millisecond
		if since < 0 || at-last > step {
			since = at
		}
		if at-since >= held {
			return at, true
		}
		last = at
	}
	return 0, false
}

// memory is a store of a few series.
type memory []promql.Series

func (m memory) Querier(int64, int64) (storage.Querier, error) { return querier{m}, nil }

type querier struct{ memory }

func (q querier) Select(_ context.Context, _ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	found := &set{at: -1}
	for _, series := range q.memory {
		matches := true
		for _, matcher := range matchers {
			matches = matches && matcher.Matches(series.Metric.Get(matcher.Name))
		}
		if matches {
			found.series = append(found.series, series)
		}
	}
	return found
}

func (querier) LabelValues(context.Context, string, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}

func (querier) LabelNames(context.Context, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}

func (querier) Close() error { return nil }

type set struct {
	series []promql.Series
	at     int
}

func (s *set) Next() bool                        { s.at++; return s.at < len(s.series) }
func (s *set) At() storage.Series                { return promql.NewStorageSeries(s.series[s.at]) }
func (s *set) Err() error                        { return nil }
func (s *set) Warnings() annotations.Annotations { return nil }
