// The part of React's types that react.js uses. React's own types are a package of other people, @types/react.
declare module "react" {
  export function useEffect(effect: () => void | (() => void), dependencies?: readonly unknown[]): void;
  export function useRef<T>(initial: T): { current: T };
  export function useState<T>(initial: T): [T, (next: T) => void];
}
