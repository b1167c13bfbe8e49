package listener

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

// badRequest is the code of what the server refuses for ever: settings that can't be.
const badRequest = 400

// consumer finds the durable consumer and makes it if it is missing. Of one that is there already,
// only what the order and the acks depend on is changed, and only if it differs.
func (l *listener) consumer(ctx context.Context, stream jetstream.Stream) (jetstream.Consumer, error) {
	consumer, err := stream.Consumer(ctx, l.Group)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		config := jetstream.ConsumerConfig{
			Durable:       l.Group,
			AckPolicy:     jetstream.AckExplicitPolicy,
			DeliverPolicy: jetstream.DeliverAllPolicy,
		}
		l.settle(&config)
		return l.given(stream.CreateConsumer(ctx, config))
	}
	if errors.Is(err, jetstream.ErrNotPullConsumer) {
		return nil, fatal{fmt.Errorf("consumer %s of stream %s is a push consumer; choose another group", l.Group, l.Stream)}
	}
	if err != nil {
		return l.given(nil, err)
	}

	config := consumer.CachedInfo().Config
	if config.AckPolicy != jetstream.AckExplicitPolicy {
		return nil, fatal{fmt.Errorf("consumer %s of stream %s has the ack policy %s, and a listener needs explicit acks; "+
			"choose another group", l.Group, l.Stream, config.AckPolicy)}
	}
	if !l.settle(&config) {
		return consumer, nil
	}
	return l.given(stream.UpdateConsumer(ctx, config))
}

// settle writes what a listener needs into a consumer's settings; false if all of it is there.
func (l *listener) settle(config *jetstream.ConsumerConfig) bool {
	subjects := l.subjects()
	current := slices.Clone(config.FilterSubjects)
	if config.FilterSubject != "" {
		current = []string{config.FilterSubject}
	}
	slices.Sort(current)
	isSame := slices.Equal(current, subjects) && config.AckWait == l.AckWait &&
		config.MaxAckPending == l.MaxAckPending && config.MaxDeliver == -1 && len(config.BackOff) == 0

	config.FilterSubject = ""
	config.FilterSubjects = subjects
	config.AckWait = l.AckWait
	config.MaxAckPending = l.MaxAckPending
	config.MaxDeliver = -1
	config.BackOff = nil // it would replace AckWait
	return !isSame
}

func (l *listener) given(consumer jetstream.Consumer, err error) (jetstream.Consumer, error) {
	var refused *jetstream.APIError
	if errors.As(err, &refused) && refused.Code == badRequest {
		return nil, fatal{fmt.Errorf("NATS refuses the consumer %s: %w", l.Group, err)}
	}
	if err != nil {
		return nil, fmt.Errorf("consumer %s: %w", l.Group, err)
	}
	return consumer, nil
}
