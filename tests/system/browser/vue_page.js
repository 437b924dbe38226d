// A page with useStream in Vue.
import { createApp, h, ref, watchEffect } from "vue";
import { useStream } from "django-sse-streams/vue";

const url = ref("/events/?last_event_id=0");
const shown = ref(true);
window.setUrl = (value) => {
  url.value = value || url.value;
  shown.value = !!value;
};
window.seen = [];

const News = {
  setup() {
    const options = { shared: true, limit: 3, types: ["message", "alert"], onEvent: (event) => window.seen.push(event.id) };
    const { state, events, error } = useStream(url, options);
    return () =>
      h("section", { "data-state": state.value }, [
        h("ul", events.value.map((event) => h("li", { key: event.id }, `${event.type} ${event.data.title ?? event.data}`))),
        error.value?.code,
      ]);
  },
};

createApp({ render: () => (shown.value ? h(News) : null) }).mount("main");
